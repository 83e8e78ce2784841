"""The fastest OpenVINO CPU model that keeps the accuracy."""
