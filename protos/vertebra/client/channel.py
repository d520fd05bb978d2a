"""How both clients set up their channel; opens none, and knows no address."""

# gRPC's own retries stay on. Without a policy they send again only what the server never looked at, as a call that
# meets the end of an aged connection; what the server refuses is for vertebra.client.retry.
OPTIONS = (
    ("grpc.lb_policy_name", "round_robin"),  # a name with several addresses, as a headless Service has, is all of them
    ("grpc.max_send_message_length", -1),  # what is too large is the server's to say, with both numbers
    ("grpc.max_receive_message_length", -1),  # the logits of many images pass gRPC's 4 MiB
)
