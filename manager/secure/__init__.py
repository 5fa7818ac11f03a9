"""What makes a fleet's Redis private: certificates, users with least rights, and the URLs that name them."""
