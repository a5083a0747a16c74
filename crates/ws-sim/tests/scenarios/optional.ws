# Without what is optional it starts all the same, as soon as that can never be had.
service cache
  restart no
  host start-fails=100%
service api
  after cache ready optional
at 0s up
at 3s settled
