# It says itself that it is ready and that it lives; when it goes silent it is restarted.
service api
  ready notify within=10s
  live notify interval=4s
  host pace=1s
at 0s up
at 5s notify api STATUS accepting connections
at 6s probe api live fails
at 16s probe api live works
at 20s settled
