KEY_FILE = "seal.key"  # in the hub's folder, unless the settings say otherwise
