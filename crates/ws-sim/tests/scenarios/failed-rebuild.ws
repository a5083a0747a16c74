# A build that fails later leaves alone who runs; the next change mends it.
build make
service api
  uses make
at 0s up
at 5s changed make
at 5500ms exit make 2
at 10s changed make
at 15s settled
