# A run that was killed and of whose end nobody hears: nothing is started beside it, and down ends.
service api
  host undying=100%
service web
  after api started
at 0s up
at 2s kill api
at 13s up api
at 14s down
at 40s end
