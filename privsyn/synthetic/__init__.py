"""The synthetic set: drawn by `sampling`, kept on disk by `dataset`, described for recipients by `card`."""
