# It asks for more time to start, and gets it.
service db
  ready notify within=5s
  host pace=9s
at 0s up
at 4s notify db EXTEND 10s
at 12s settled
