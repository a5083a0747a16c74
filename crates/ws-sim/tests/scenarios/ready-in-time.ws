# What is not ready in time is killed, and its policy decides.
service api
  ready within=3s
  restart on-failure max=1 pause=200ms..1s
  host pace=1s probe-fails=100%
at 0s up
at 20s settled
