# Being ready is a level: after so many failures in a row it is not, after one success it is again.
service api
  ready failures=3
  host pace=1s
at 0s up
at 3500ms probe api ready fails
at 9500ms probe api ready works
at 12s settled
