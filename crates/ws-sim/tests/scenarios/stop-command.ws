# A command stops it; the signal follows where the command has ended and the service has not.
service quick
  stop-command
service slow
  stop-command
  grace 5s
  host hook=1s hook-fails=100%
at 0s up
at 2s stop
at 10s settled
