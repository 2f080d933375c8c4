"""What an observer hears of the images that are done."""

from ccrop_pipeline.base import Observer


class Counted(Observer):
    def __init__(self):
        self.done, self.shards = [], []

    def images_done(self, images, shard="", stages=None):
        self.done.append(images)

    def shard_written(self, shard, images, unreadable=0):
        self.shards.append((shard, images))
