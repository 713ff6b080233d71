"""Runs and data at an address: objects in a bucket (s3://, gs://) under the interface of a path."""
