"""AWS SageMaker with its own image classification and object detection: ``api`` speaks AWS's words, ``platform`` ours.

Only ``calls`` imports boto3, and only when the first call is made.
"""
