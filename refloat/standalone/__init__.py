"""The guest engine on disk images, without a hub: `refloat guest inspect|plan|adapt|undo`."""
