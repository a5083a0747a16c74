# A new run that ends before it is ready changes nothing; and when the old one ends first, the new one is the run.
service web
  overlap
  ready notify
  host pace=1s
at 0s up
at 5s changed web
at 5500ms kill web
at 6s up web
at 10s changed web
at 10500ms exit web 1
at 15s settled
