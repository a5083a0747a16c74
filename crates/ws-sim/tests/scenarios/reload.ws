# While it reloads it is not ready; what started before goes on.
service api
  ready notify
  host pace=500ms
service web
  after api ready
at 0s up
at 2s notify api RELOADING
at 4s notify api READY
at 5s settled
