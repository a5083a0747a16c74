# One that ignores its signal is killed after its grace period; `down now` does not wait for that.
service db
service api
  after db started
  grace 5s
  host deaf=100%
service web
  after db started
  grace 60s
  host deaf=100%
at 0s up
at 2s down
at 10s down now
at 11s end
