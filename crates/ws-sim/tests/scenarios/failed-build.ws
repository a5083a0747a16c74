# A build that fails is not tried again, and what waits on its service fails with that cause.
service api
  build
  host ends-badly=100%
service web
  after api started
at 0s up
at 5s settled
