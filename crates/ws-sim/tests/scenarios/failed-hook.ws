# A post_start that fails has failed the start; a pre_stop that hangs holds nothing up for longer than the grace period.
service api
  post_start 10s
  restart on-failure max=1 pause=200ms..1s
  host hook-fails=100%
service web
  pre_stop 60s
  grace 3s
  host hook-hangs=100%
at 0s up
at 5s down
at 20s end
