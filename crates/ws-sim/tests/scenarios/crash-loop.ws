# Pauses double with each failure in a row, and there is an end to it.
service api
  restart on-failure max=4 pause=200ms..2s
  host dies=100% life=100ms ends-badly=100%
service web
  after api ready
at 0s up
at 30s settled
