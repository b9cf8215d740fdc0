"""Files written completely or not at all: any file, and films as GIF and MP4."""
