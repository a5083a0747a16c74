# `always` starts it again whenever it ended; `no` never does.
service ever
  restart always max=none pause=100ms..1s
service never
  restart no
at 0s up
at 2s exit ever 0
at 3s exit never 1
at 5s settled
