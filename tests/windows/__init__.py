"""What the tests of Windows guests are made of: hives, disks, driver sets, and a guest that is simulated."""
