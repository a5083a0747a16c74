# post_start comes before it is ready, pre_stop before its signal.
service api
  ready
  post_start 10s
  pre_stop 5s
  host hook=500ms pace=500ms
at 0s up
at 3s restart api
at 8s settled
at 8s down
at 20s end
