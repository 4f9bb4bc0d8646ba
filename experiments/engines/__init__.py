"""What engines tell beside the OpenAI protocol, one engine per file."""
