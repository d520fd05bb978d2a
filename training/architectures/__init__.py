"""What a backbone is made of: its card, its module and its weights. backbones.py is the door; look there first."""
