"""A trained model: its network and its folder."""
