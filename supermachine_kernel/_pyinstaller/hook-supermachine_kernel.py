"""What PyInstaller packs beside the code of supermachine_kernel: the assets and the distribution's metadata."""

from PyInstaller.utils.hooks import collect_data_files, copy_metadata  # type: ignore[import-untyped]

datas = collect_data_files("supermachine_kernel", includes=["assets/*"]) + copy_metadata("supermachine-kernel")
