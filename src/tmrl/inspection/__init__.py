"""What is in recorded data, and whether it is sound: the work behind `tmrl inspect` and `tmrl verify`.

    dataset --> contents (one pass over all episodes) --> table: a terminal
                    |                                 `-> page: one HTML file, its figures, its film strips
    path -----> facts (manifest, sizes) --------------^

It stands at the top with `tmrl.cli`: nothing in the library imports it. It knows no format of files, only the
`Dataset` that a reader made of them, and it runs without torch.
"""
