# A build that fails fails those that wait for what it makes, and is not tried again.
build make
  host ends-badly=100%
service api
  uses make
service web
  after api started
at 0s up
at 5s settled
