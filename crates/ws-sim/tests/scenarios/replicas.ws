# One name for all of them, and one for each.
service api-1
  replica api 1
service api-2
  replica api 2
service api-3
  replica api 3
service web
  after api-1 started
  after api-2 started
  after api-3 started
at 0s up web
at 2s restart api
at 4s stop api-2
at 6s settled
