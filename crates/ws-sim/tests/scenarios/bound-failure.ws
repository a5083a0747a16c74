# What is bound to another service is started again when that one had to be.
service db
  ready
  host pace=300ms
service api
  after db ready restart
service aside
  after db ready
at 0s up
at 2s exit db 1
at 5s settled
