# What the host cannot do leaves all as it was, and is tried again with the next plan.
seed 5
service db
  host update-fails=100%
service api
plan
service db
  version 1
service api
service new
  host place-fails=100%
at 0s up
at 5s adopt 1
at 9s calm
at 10s adopt 1
at 15s settled
at 15s fresh
