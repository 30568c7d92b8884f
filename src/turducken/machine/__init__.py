"""The machine: processors, RAM and devices put together; firmware and the loading of images."""
