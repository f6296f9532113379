"""The kinds of files a sample can show, by suffix."""

VIDEO_SUFFIXES = ("avi", "mkv", "mov", "mp4", "webm")
IMAGE_SUFFIXES = ("jpeg", "jpg", "png", "webp")  # an image is a video of one frame
FRAMES_SUFFIX = "frames"  # frames of a video that was decoded before
