# Asked for again while it stops: it starts as soon as it is gone.
service db
  host stops=2s
service api
  after db started
at 0s up
at 2s stop db
at 3s up
at 7s settled
