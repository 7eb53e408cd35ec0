"""What a rank that a launched script spawns finds as the main module: the script, with our lines."""

from gan_regularizers.adapters import launcher

if __name__ == "__mp_main__":
    exec(launcher.become(globals()), globals())
