"""rclpy nodes and message conversion; they translate and do no arithmetic."""
