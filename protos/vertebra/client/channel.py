"""How both clients set up their channel; opens none, and knows no address."""

OPTIONS = (
    ("grpc.enable_retries", 0),  # vertebra.client.retry is the one mechanism
    ("grpc.lb_policy_name", "round_robin"),  # a name with several addresses, as a headless Service has, is all of them
    ("grpc.max_send_message_length", -1),  # what is too large is the server's to say, with both numbers
    ("grpc.max_receive_message_length", -1),  # the logits of many images pass gRPC's 4 MiB
)
