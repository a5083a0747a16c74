# A new run is ready before the old one ends, on a change of files and on request; a change in the middle begins anew.
service web
  overlap
  pre_stop 5s
  ready
  host pace=500ms stops=2s
at 0s up
at 5s changed web
at 5200ms changed web
at 12s restart web
at 20s settled
