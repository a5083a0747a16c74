# What is bound to another service stops before it and starts after it, on request.
service db
  ready
  host pace=300ms
service api
  after db ready restart
service web
  after api started
at 0s up
at 2s restart db
at 5s settled
