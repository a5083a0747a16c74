# What does not answer its liveness probe is stopped, killed when it does not listen, and started again.
service api
  live failures=3
  grace 2s
  host pace=1s deaf=100%
at 0s up
at 2500ms probe api live fails
at 9s probe api live works
at 12s settled
