# Until it has started up nobody asks whether it is ready or alive.
service api
  startup within=20s
  ready
  live failures=2
  host pace=1s
at 0s up
at 0s probe api startup fails
at 5s probe api startup works
at 10s settled
