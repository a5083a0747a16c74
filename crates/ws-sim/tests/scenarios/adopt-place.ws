# Another view is another place: who waits for it is not touched, and the port of one that goes is taken over after it.
service api
  after db ready
service db
service old
  port 8000
plan
service api
  after db ready
service db
  view 1
service new
  port 8000
at 0s up
at 5s adopt 1
at 10s settled
at 10s fresh
