# What a service waits for is there before it starts; what waits for nothing starts at once.
service db
  ready
  host pace=500ms
task migrate
  after db ready
service api
  after db ready
  after migrate completed
service web
  after api started
service mail
at 0s up
at 3s settled
at 4s down
at 10s end
