# Stopped together, each gets its signal when those that wait on it are gone.
service db
service api
  after db started
  host stops=1s
service web
  after api started
  host stops=500ms
at 0s up
at 2s down
at 10s end
