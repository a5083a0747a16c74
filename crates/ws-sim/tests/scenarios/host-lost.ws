# The host loses what everything stands on: all is killed at once, and whoever asked is told.
service db
  ready
  host pace=1s
service api
  after db ready
at 0s up
at 500ms host-lost
at 5s end
