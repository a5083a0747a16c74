# After a stable time restarts are counted anew.
service api
  restart on-failure max=1 pause=100ms..1s
at 0s up
at 1s exit api 1
at 20s exit api 1
at 25s exit api 1
at 30s settled
