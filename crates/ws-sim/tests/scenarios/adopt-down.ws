# Down in the middle of a change: what the host is in the middle of is waited for, and nothing more is begun.
service db
  host place=1s
service api
  host place=1s
plan
service db
  version 1
service new
  host place=5s
at 0s up
at 5s adopt 1
at 5500ms down
at 20s end
