from randomwalk.config.generated import main

main()
