# A start that can never succeed is not tried again.
service api
  restart on-failure max=5 pause=100ms..1s
  host start-fails=100% hopeless=100%
service web
  after api started
at 0s up
at 3s settled
