"""Operations on files: see :mod:`iowq.files`."""
