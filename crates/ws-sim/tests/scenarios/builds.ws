# One build of two services: it runs before them, and again when its files change; who uses what changed follows.
build make
service api
  uses make
service web
  uses make
  after api ready
at 0s up
at 5s changed make
at 10s changed make
at 15s settled
