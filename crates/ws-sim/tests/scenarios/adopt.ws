# A file that is edited: one comes, one goes, one is started again, one is changed live, one is not touched.
service api
  after db ready
service cache
service db
  ready
service old
plan
service api
  version 1
  after db ready
service cache
  limit 64
service db
  ready
service new
  after api ready
at 0s up
at 5s adopt 1
at 10s settled
at 10s fresh
at 11s down
at 20s end
